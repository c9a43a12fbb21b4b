"""The judgement: who must know, how loudly, until when."""
