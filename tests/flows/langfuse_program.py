"""A program under the Langfuse SDK as its users write them; only the address and the keys are Handrail's."""

import json
import sys

from langfuse import Langfuse, get_client, observe, propagate_attributes


@observe(as_type="tool")
def get_weather(city: str) -> dict[str, int]:
    return {"temp_c": 21}


@observe(as_type="tool")
def crm(number: int) -> None:
    raise ValueError("CRM is down")


@observe(as_type="agent", name="weather-agent")
def agent(question: str) -> str:
    langfuse = get_client()
    with propagate_attributes(session_id="talk-1", user_id="customer-1"):
        get_weather("Lisbon")
        try:
            crm(1)
        except ValueError:
            pass
        with langfuse.start_as_current_observation(
            as_type="generation", name="answer", model="gpt-4o", input=question
        ) as generation:
            generation.update(output="21 degrees", usage_details={"input": 1000, "output": 100})
        langfuse.score_current_trace(name="csat", value=0.9)
    return "ok"


langfuse = get_client()
is_known = langfuse.auth_check()
agent("What is the weather in Lisbon?")
langfuse.flush()
langfuse.shutdown()
try:
    is_stranger_known = Langfuse(public_key="pk-lf-other", secret_key="not-a-key").auth_check()
except Exception as error:
    is_stranger_known = type(error).__name__
sys.stdout.write(json.dumps({"is_known": is_known, "is_stranger_known": is_stranger_known}))
