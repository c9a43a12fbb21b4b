"""Who sends the bill: one spelling for each provider, and names that are none."""

from collections.abc import Mapping

# What senders name where the provider belongs, though the bill comes from another house.
FRAMEWORKS = frozenset(
    {
        "agno",
        "autogen",
        "beeai",
        "crewai",
        "haystack",
        "langchain",
        "langgraph",
        "litellm",
        "llamaindex",
        "llama_index",
        "pydantic-ai",
        "smolagents",
        "strands",
        "strands-agents",
        "vercel",
        "_other",
        "unknown",
    }
)
# Runners of a model on one's own machine: a list price of the same model elsewhere says nothing of its cost.
LOCAL_RUNNERS = frozenset({"ollama", "vllm", "lmstudio", "lm_studio", "llamacpp", "llama_cpp", "llamafile"})
PROVIDERS: Mapping[str, str] = {
    "openai": "openai",
    "openai_responses": "openai",
    "azure": "azure",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "azure-openai": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "anthropic": "anthropic",
    "aws": "aws",
    "aws.bedrock": "aws",
    "aws_bedrock": "aws",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "amazon-bedrock": "aws",
    "amazon_bedrock": "aws",
    "google": "google",
    "google-gla": "google",
    "google-vertex": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "gcp": "google",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "vertex": "google",
    "vertexai": "google",
    "vertex_ai": "google",
    "mistral": "mistral",
    "mistralai": "mistral",
    "mistral_ai": "mistral",
    "xai": "x-ai",
    "x_ai": "x-ai",
    "x-ai": "x-ai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "groq": "groq",
    "perplexity": "perplexity",
    "openrouter": "openrouter",
    "together": "together",
    "together_ai": "together",
    "togetherai": "together",
    "fireworks": "fireworks",
    "fireworks_ai": "fireworks",
    "cerebras": "cerebras",
    "moonshot": "moonshotai",
    "moonshotai": "moonshotai",
    "voyage": "voyageai",
    "voyageai": "voyageai",
}


def provider_name(raw: str) -> str:
    """Return one spelling for a provider: "openai.chat" and "OpenAI" are both "openai"."""
    name = raw.strip().lower()
    return PROVIDERS.get(name) or PROVIDERS.get(name.partition(".")[0]) or name
