"""The names that senders use for what we keep: OpenTelemetry GenAI, OpenInference and vendors, newest first.

Everything here is data. The first non-empty name of a field wins; a name belongs to one field only.
"""

import re
from collections.abc import Mapping

FIELDS: Mapping[str, tuple[str, ...]] = {
    "provider": (
        "gen_ai.provider.name",
        "gen_ai.system",
        "llm.provider",
        "llm.system",
        "ai.model.provider",
    ),
    "request_model": (
        "gen_ai.request.model",
        "llm.request.model_name",
        "llm.model_name",
        "embedding.model_name",
        "ai.model.id",
        "llm.request.model",
        "reranker.model_name",
    ),
    "response_model": (
        "gen_ai.response.model",
        "llm.response.model_name",
        "llm.response.model",
        "ai.response.model",
        "langfuse.observation.model.name",
    ),
    "agent": ("gen_ai.agent.name", "agent.name", "agent_name", "ai.telemetry.functionId"),
    "entity": ("traceloop.entity.name", "graph.node.id"),
    "run": ("handrail.run.id",),
    "execution": ("handrail.execution.id",),
    "department": ("handrail.department",),
    "workflow": ("gen_ai.workflow.name", "traceloop.workflow.name"),
    "conversation": (
        "gen_ai.conversation.id",
        "session.id",
        "langfuse.session.id",
        "traceloop.association.properties.session_id",
        "ai.telemetry.metadata.sessionId",
        "traceloop.association.properties.conversation_id",
        "traceloop.association.properties.thread_id",
        "ai.telemetry.metadata.conversationId",
        "ai.telemetry.metadata.threadId",
        "ai.telemetry.metadata.chatId",
        "thread_id",
        "group_id",
    ),
    "user": (
        "user.id",
        "langfuse.user.id",
        "enduser.id",
        "traceloop.association.properties.user_id",
        "ai.telemetry.metadata.userId",
        "llm.user",
        "gen_ai.request.user",
        "metadata.user_api_key_user_id",
    ),
    "tool": ("gen_ai.tool.name", "tool.name", "ai.toolCall.name"),
    "tool_call_id": ("gen_ai.tool.call.id", "tool.id", "tool_call.id", "ai.toolCall.id"),
    "arguments": (
        "gen_ai.tool.call.arguments",
        "tool.parameters",
        "ai.toolCall.args",
        "tool_arguments",
        "gen_ai.tool.args",
    ),
    "result": ("gen_ai.tool.call.result", "ai.toolCall.result", "tool_response"),
    "input": (
        "gen_ai.input.messages",
        "input.value",
        "traceloop.entity.input",
        "langfuse.observation.input",
        "ai.prompt.messages",
        "ai.prompt",
    ),
    "output": (
        "gen_ai.output.messages",
        "output.value",
        "traceloop.entity.output",
        "langfuse.observation.output",
        "ai.response.text",
        "ai.response.object",
        "ai.response.toolCalls",
    ),
    "response_id": ("gen_ai.response.id", "llm.response.id", "ai.response.id"),
    "response_status": ("gen_ai.response.status",),
    "finish": (
        "gen_ai.response.finish_reasons",
        "llm.finish_reason",
        "ai.response.finishReason",
        "anthropic.message.stop_reason",
        "langfuse.observation.metadata.finish_reason",
    ),
    "first_token": (
        "gen_ai.response.time_to_first_chunk",
        "ai.response.msToFirstChunk",
        "gen_ai.server.time_to_first_token",
    ),
    "first_token_at": ("langfuse.observation.completion_start_time",),
    "service_tier": (
        "openai.response.service_tier",
        "gen_ai.openai.response.service_tier",
        "anthropic.response.service_tier",
    ),
    "cost": (
        "gen_ai.usage.cost",
        "gen_ai.usage.total_cost",
        "gen_ai.cost.total_cost",
        "llm.cost.total",
        "operation.cost",
    ),
    "error_type": ("error.type",),
    "error_message": ("error.message", "langfuse.observation.status_message"),
    "error_flag": ("langfuse.observation.level", "gen_ai.tool.status", "logfire.level_num"),
    "handover_from": ("gen_ai.handoff.from_agent", "from_agent"),
    "handover_to": ("gen_ai.handoff.to_agent", "to_agent"),
    "display_name": ("logfire.msg",),
    "pending_type": ("logfire.span_type",),
    "pending_parent": ("logfire.pending_parent_id",),
    "vendor_kind": ("langfuse.observation.type",),
    "openinference_kind": ("openinference.span.kind",),
    "operation": ("gen_ai.operation.name",),
    "traceloop_kind": ("traceloop.span.kind",),
    "ai_operation": ("ai.operationId",),
    "request_type": ("llm.request.type",),
    "mcp_method": ("mcp.method.name",),
}

TOKENS: Mapping[str, tuple[str, ...]] = {
    "input_total": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
        "llm.usage.prompt_tokens",
        "ai.usage.inputTokens",
        "ai.usage.promptTokens",
        "ai.usage.tokens",
    ),
    "output_total": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
        "llm.usage.completion_tokens",
        "ai.usage.outputTokens",
        "ai.usage.completionTokens",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.cache_read_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "gen_ai.usage.details.cache_read_input_tokens",
        "gen_ai.usage.details.cached_tokens",
        "gen_ai.usage.input_tokens.cached",
        "llm.token_count.prompt_details.cache_read",
        "llm.usage.cache_read_input_tokens",
        "ai.usage.inputTokenDetails.cacheReadTokens",
        "ai.usage.cachedInputTokens",
    ),
    "cache_write": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.cache_write_tokens",
        "gen_ai.usage.cache_write_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
        "gen_ai.usage.details.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
        "llm.usage.cache_creation_input_tokens",
        "ai.usage.inputTokenDetails.cacheWriteTokens",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "gen_ai.usage.details.thoughts_tokens",
        "llm.token_count.completion_details.reasoning",
        "gen_ai.usage.output_tokens.reasoning",
        "llm.usage.reasoning_tokens",
        "ai.usage.outputTokenDetails.reasoningTokens",
        "ai.usage.reasoningTokens",
    ),
    "audio_input": (
        "gen_ai.usage.audio.input_tokens",
        "gen_ai.usage.details.input_audio_tokens",
        "llm.token_count.prompt_details.audio",
    ),
    "audio_output": (
        "gen_ai.usage.audio.output_tokens",
        "gen_ai.usage.details.output_audio_tokens",
        "llm.token_count.completion_details.audio",
    ),
    "image_input": ("gen_ai.usage.image.input_tokens", "llm.token_count.prompt_details.image"),
    "image_output": ("gen_ai.usage.image.output_tokens", "llm.token_count.completion_details.image"),
    "images": ("gen_ai.usage.images", "gen_ai.usage.output_images"),
    "total": ("gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens"),
}

# JSON in a string. The first may be the span's whole usage; the others only add details to totals that
# stand on the span, because they also hang on spans that repeat what their children report.
USAGE_BLOB = "langfuse.observation.usage_details"
USAGE_DETAIL_BLOBS = ("gen_ai.usage.raw", "usage", "metadata.usage_object")
COST_BLOB = "langfuse.observation.cost_details"
METADATA_BLOBS = ("metadata", "langfuse.trace.metadata")
METADATA_KEYS: Mapping[str, tuple[str, ...]] = {
    "conversation": ("session_id", "sessionId", "conversation_id", "conversationId", "thread_id"),
    "agent": ("lc_agent_name", "agent_name"),
    "user": ("user_id", "userId"),
}
BLOB_TOKENS: Mapping[str, tuple[str, ...]] = {
    "input_total": (
        "input_tokens",
        "prompt_tokens",
        "input",
        "inputTokens",
        "promptTokens",
        "prompt_token_count",
        "promptTokenCount",
    ),
    "output_total": (
        "output_tokens",
        "completion_tokens",
        "output",
        "outputTokens",
        "completionTokens",
        "candidates_token_count",
        "candidatesTokenCount",
    ),
    "cache_read": (
        "cache_read_input_tokens",
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "prompt_cache_hit_tokens",
        "input_cache_read",
        "input_cached_tokens",
        "cached_input_tokens",
        "cache_read_tokens",
        "cachedContentTokenCount",
    ),
    "cache_write": (
        "cache_creation_input_tokens",
        "cache_write_input_tokens",
        "input_tokens_details.cache_write_tokens",
        "input_cache_creation",
        "cache_write_tokens",
    ),
    "reasoning": (
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
        "output_reasoning",
        "output_reasoning_tokens",
        "reasoning_tokens",
        "thoughtsTokenCount",
    ),
    "audio_input": (
        "prompt_tokens_details.audio_tokens",
        "input_tokens_details.audio_tokens",
        "input_audio",
        "input_audio_tokens",
    ),
    "audio_output": (
        "completion_tokens_details.audio_tokens",
        "output_tokens_details.audio_tokens",
        "output_audio",
        "output_audio_tokens",
    ),
    "total": ("total_tokens", "total", "totalTokens"),
}

# Lists that are spread over keys: <prefix><index>.<rest>.
SPREAD: Mapping[str, str] = {
    "llm.input_messages.": "input",
    "llm.output_messages.": "output",
    "gen_ai.prompt.": "input",
    "gen_ai.completion.": "output",
}
# Parts of such a key that only wrap the next one.
SPREAD_WRAPPERS = frozenset({"message", "tool_call", "message_content"})

VENDOR_KINDS = {
    "generation": "llm",
    "embedding": "embedding",
    "tool": "tool",
    "agent": "agent",
    "retriever": "retrieval",
    "chain": "step",
    "event": "step",
    "evaluator": "evaluator",
    "guardrail": "guardrail",
}
OPENINFERENCE_KINDS = {
    "AGENT": "agent",
    "LLM": "llm",
    "EMBEDDING": "embedding",
    "TOOL": "tool",
    "RETRIEVER": "retrieval",
    "RERANKER": "retrieval",
    "GUARDRAIL": "guardrail",
    "EVALUATOR": "evaluator",
    "CHAIN": "step",
    "PROMPT": "step",
}
OPERATIONS = {
    "invoke_agent": "agent",
    "invoke_workflow": "agent",
    "invoke_swarm": "agent",
    "invoke_graph": "agent",
    "chat": "llm",
    "generate_content": "llm",
    "text_completion": "llm",
    "completion": "llm",
    "generate": "llm",
    "acompletion": "llm",
    "responses": "llm",
    "aresponses": "llm",
    "embeddings": "embedding",
    "embedding": "embedding",
    "aembedding": "embedding",
    "execute_tool": "tool",
    "retrieval": "retrieval",
    "plan": "plan",
}
MEMORY_SUFFIXES = ("_memory", "_memory_store")
TRACELOOP_KINDS = {"agent": "agent", "workflow": "agent", "tool": "tool", "task": "step"}
REQUEST_TYPES = {"chat": "llm", "completion": "llm", "embedding": "embedding", "rerank": "retrieval"}
AI_OPERATIONS = {
    "ai.generateText": "agent",
    "ai.streamText": "agent",
    "ai.generateObject": "agent",
    "ai.streamObject": "agent",
    "ai.generateText.doGenerate": "llm",
    "ai.streamText.doStream": "llm",
    "ai.generateObject.doGenerate": "llm",
    "ai.streamObject.doStream": "llm",
    "ai.embed": "step",
    "ai.embedMany": "step",
    "ai.embed.doEmbed": "embedding",
    "ai.embedMany.doEmbed": "embedding",
    "ai.toolCall": "tool",
}
MCP_TOOL_CALL = "tools/call"
# Operations that read back what was paid for before.
REREADS = frozenset({"fetch_response", "retrieve_response"})

PENDING_STATUSES = frozenset({"queued", "in_progress"})
PENDING_SPAN = "pending_span"
# Ours: by how many milliseconds a span's end lay before its start.
ENDED_EARLY = "handrail.ended_before_start_ms"
# Exceptions by which a program hands over to a person: no failure.
INTERRUPTS = frozenset({"GraphInterrupt", "NodeInterrupt", "GraphBubbleUp"})
ERROR_FLAGS = frozenset({"error", "fatal"})
ERROR_LEVEL = 17

EXCEPTION_EVENT = "exception"
INPUT_EVENTS = frozenset(
    {
        "gen_ai.system.message",
        "gen_ai.user.message",
        "gen_ai.assistant.message",
        "gen_ai.tool.message",
        "gen_ai.content.prompt",
    }
)
OUTPUT_EVENTS = frozenset({"gen_ai.choice", "gen_ai.content.completion"})
DETAILS_EVENT = "gen_ai.client.inference.operation.details"
FIRST_TOKEN_EVENTS = frozenset({"First Token Stream Event", "ai.stream.firstChunk"})
NOISE_EVENTS = frozenset({"gen_ai.content.completion.chunk", "llm.content.completion.chunk"})

# A span that tells of its tool or its agent only in its own name: "execute_tool search", "invoke_agent triage",
# "manager.run", "support.agent".
TOOL_PREFIX = "execute_tool "
AGENT_RUN = "agent run"
AGENT_PREFIXES = ("invoke_agent ", "Agent run: ")
AGENT_SUFFIXES = (".run", ".agent", " run")
# The bare operation names none.
AGENT_SPAN_NAME = re.compile(
    "^(?!invoke_agent$)"
    f"(?:{'|'.join(map(re.escape, AGENT_PREFIXES))})?(.+?)(?:{'|'.join(map(re.escape, AGENT_SUFFIXES))})?$"
)
