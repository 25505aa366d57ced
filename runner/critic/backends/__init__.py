"""What answers a critic's questions: a CLIP model, a vision-language model in this process, an OpenAI-type server.

Each is a `question.Backend` and replies with JSON text under the schema that it is given, or says how it failed. One
suite of promises holds for all of them. What they do not know: profiles' thresholds, retries, runs.
"""
