"""Large multimodal models: what any of them must do, the client of OpenAI-compatible servers, and a stand-in.

    client = OpenAIClient("http://localhost:8000/v1", "Qwen/Qwen2-VL-2B-Instruct", api_key=api_key_from_environment())
    completion = client.complete(messages, schema=answer_schema(spec, classes), max_tokens=200, timeout_s=60)

`VoteLMM()` answers the majority of the labels in the messages, without a model.
"""

from viewfold.retrieval.lmm.client import Completion, LMMClient
from viewfold.retrieval.lmm.openai_client import API_KEY_VARIABLE, OpenAIClient, api_key_from_environment
from viewfold.retrieval.lmm.vote import VoteLMM

__all__ = ["API_KEY_VARIABLE", "Completion", "LMMClient", "OpenAIClient", "VoteLMM", "api_key_from_environment"]
