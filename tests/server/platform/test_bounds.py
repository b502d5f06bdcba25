"""What one caller may make the server do at once: each bound is met with an answer that names it, and nobody else waits."""

import time

GRADERS = "/v1/fine_tuning/alpha/graders/run"


def fuzzy(times, sample="{{sample.output_text}}"):
    one = {
        "type": "text_similarity",
        "input": sample,
        "reference": sample,
        "evaluation_metric": "fuzzy_match",
    }
    graders = {f"g{n}": {**one, "name": f"g{n}"} for n in range(times)}
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": "g0"}


def test_a_grader_request_that_compares_too_much_is_refused_at_once(client):
    began_s = time.monotonic()
    answer = client.post(GRADERS, json={"grader": fuzzy(20), "model_sample": "ab" * 25_000})
    assert answer.status_code == 400
    assert "50,000,000,000" in answer.json()["error"]["message"]
    assert "100,000,000" in answer.json()["error"]["message"]
    assert time.monotonic() - began_s < 5
    fine = client.post(GRADERS, json={"grader": fuzzy(2), "model_sample": "ab" * 1_000})
    assert fine.status_code == 200
    assert fine.json()["reward"] == 1.0
    assert client.post(GRADERS, json={"grader": fuzzy(1), "model_sample": "a" * 50_001}).status_code == 400
