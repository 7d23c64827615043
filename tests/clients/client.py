"""Python clients of other APIs against a daemon, unchanged: `client.py URL NAME` prints what one
of them read as JSON. Runs in the environment that scripts/clients makes; knows nothing of ours.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

PROMPT = "Is it raining in Bern?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
PARAMETERS = {
    "type": "object",
    "properties": {"at": {"type": "string", "maxLength": 8}},
    "required": ["at"],
    "additionalProperties": False,
}
ONE_CALL = {"parallel_tool_calls": False}
"""A base of random weights would never stop making more."""
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look whether it rains somewhere.",
        "parameters": PARAMETERS,
    },
}


def through_litellm(url: str) -> dict[str, Any]:
    import litellm

    litellm.telemetry = False
    at = {"api_base": f"{url}/v1", "api_key": "unused", "max_tokens": 300, "temperature": 0}
    ask = {"model": "openai/law", "messages": MESSAGES, **at}
    whole = litellm.completion(**ask)
    stream = litellm.completion(**ask, stream=True)
    called = litellm.completion(**ask, tools=[LOOK], tool_choice="required", **ONE_CALL)
    anthropic = litellm.completion(
        model="anthropic/law", messages=MESSAGES, api_base=url, api_key="unused", max_tokens=12
    )
    responses = litellm.responses(
        model="openai/law", input=PROMPT, api_base=f"{url}/v1", api_key="unused"
    )
    ollama = litellm.completion(
        model="ollama_chat/law", messages=MESSAGES, api_base=url, max_tokens=12
    )
    vectors = litellm.embedding(
        model="openai/law", input=["a", "b"], api_base=f"{url}/v1", api_key="unused"
    )
    return {
        "whole": whole.choices[0].message.content,
        "stream": "".join(chunk.choices[0].delta.content or "" for chunk in stream),
        "called": [
            json.loads(one.function.arguments) for one in called.choices[0].message.tool_calls
        ],
        "anthropic": anthropic.choices[0].message.content,
        "responses": responses.output[0].content[0].text,
        "ollama": ollama.choices[0].message.content,
        "lengths": [math.hypot(*one["embedding"]) for one in vectors.data],
    }


def through_langchain(url: str) -> dict[str, Any]:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from pydantic import BaseModel, Field

    class Place(BaseModel):
        """A place."""

        at: str = Field(max_length=8)

    @tool(args_schema=Place)
    def look(at: str) -> str:
        """Look whether it rains somewhere."""
        return f"It rains in {at}."

    report: dict[str, Any] = {}
    for name, responses in (("chat", False), ("responses", True)):
        model = ChatOpenAI(
            model="law",
            base_url=f"{url}/v1",
            api_key="unused",
            max_tokens=300,
            temperature=0,
            use_responses_api=responses,
        )
        called = model.bind_tools([look], tool_choice="required", **ONE_CALL).invoke(PROMPT)
        results = [
            ToolMessage(look.invoke(call["args"]), tool_call_id=call["id"])
            for call in called.tool_calls
        ]
        told = model.invoke([HumanMessage(PROMPT), called, *results])
        report[name] = {
            "whole": model.invoke(PROMPT).text,
            "stream": "".join(chunk.text for chunk in model.stream(PROMPT)),
            "called": [call["args"] for call in called.tool_calls],
            "told": told.text,
            "object": model.with_structured_output(Place, method="json_schema")
            .invoke(PROMPT)
            .model_dump(),
        }
    embeddings = OpenAIEmbeddings(
        model="law", base_url=f"{url}/v1", api_key="unused", check_embedding_ctx_length=False
    )
    report["lengths"] = [math.hypot(*one) for one in embeddings.embed_documents(["a", "b"])]
    return report


def through_instructor(url: str) -> dict[str, Any]:
    import instructor
    import openai
    from pydantic import BaseModel, Field

    class Place(BaseModel):
        """Where it rains."""

        at: str = Field(max_length=8)

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
    report = {}
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        place = instructor.from_openai(client, mode=mode).chat.completions.create(
            model="law",
            messages=MESSAGES,
            response_model=Place,
            max_retries=0,
            max_tokens=300,
            temperature=0,
            **(ONE_CALL if mode is instructor.Mode.TOOLS else {}),
        )
        report[mode.value] = place.model_dump()
    return report


def through_ollama(url: str) -> dict[str, Any]:
    import ollama

    client = ollama.Client(host=url)
    ask = {"model": "law", "messages": MESSAGES, "options": {"num_predict": 12, "temperature": 0}}
    return {
        "models": sorted(one.model for one in client.list().models),
        "whole": client.chat(**ask).message.content,
        "stream": "".join(part.message.content for part in client.chat(**ask, stream=True)),
        "generated": client.generate("law", PROMPT, options={"num_predict": 12}).response,
        "object": json.loads(client.chat("law", MESSAGES, format=PARAMETERS).message.content),
        "lengths": [math.hypot(*one) for one in client.embed("law", ["a", "b"]).embeddings],
        "capabilities": client.show("law").capabilities,
    }


def through_openai(url: str) -> dict[str, Any]:
    """An older one than the suite's own: what litellm and langchain stand on."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
    chat = client.chat.completions.create(model="law", messages=MESSAGES, max_tokens=12)
    response = client.responses.create(model="law", input=PROMPT, max_output_tokens=12)
    return {"whole": chat.choices[0].message.content, "responses": response.output_text}


if __name__ == "__main__":
    print(json.dumps(globals()[f"through_{sys.argv[2]}"](sys.argv[1])))
