"""Where the final answer stands in a turn."""

import pytest

from iapo.rewards.answers.extraction import extract


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("FINAL ANSWER: 5 TERMINATE", "5"),
        ("final answer: U.S. dollars.", "U.S. dollars"),
        ("FINAL ANSWER: the U.S.", "the U.S."),
        ("FINAL ANSWER: 3.5.", "3.5"),
        ("FINAL ANSWER: 1\nFINAL ANSWER: **2**", "2"),
        ("FINAL ANSWER: x\nbecause", "x"),
        ("FINAL ANSWER: x<|im_end|>", "x"),
        ("FINAL ANSWER:", None),
        ("FINAL ANSWER: TERMINATE", None),
        ("FINAL ANSWER:\n\n", None),
        ("the answer is 5", None),
        # Marked-up and full-width labels, headings, the next line.
        ("**FINAL ANSWER**: 7", "7"),
        ("**FINAL ANSWER:** 7", "7"),
        ("<b>Final Answer</b>: 7", "7"),
        ("__Final Answer__:\n__7__", "7"),
        ("FINAL ANSWER：7", "7"),
        ("ＦＩＮＡＬ　ＡＮＳＷＥＲ：7", "7"),
        ("FINAL ANSWER:\n\n7\nTERMINATE", "7"),
        ("### Final Answer\n\n7", "7"),
        ("**Final Answer**\r\n7", "7"),
        ("I give the final answer\nafter some thought", None),
        # An answer beside a call is none: the rollout is not over. One beside a broken call stands.
        ('FINAL ANSWER: 7\n<tool_call>{"name": "f", "arguments": {}}</tool_call>', None),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call>\nFINAL ANSWER: 7', None),
        ('<tool_call>{"name": </tool_call>\nFINAL ANSWER: 7', "7"),
        ("FINAL ANSWER: 7 <tool_call>", "7"),
        # Thinking is not the answer.
        ("<think>FINAL ANSWER: 9 is wrong</think>\n\n7", None),
        ("<think>FINAL ANSWER: 9</think>FINAL ANSWER: 7", "7"),
        ("FINAL ANSWER: 9</think>FINAL ANSWER: 7", "7"),
        ("FINAL ANSWER: 9</think>\n7", None),
        ("FINAL ANSWER: 7\n<think>FINAL ANSWER: 9", "7"),
        ("<think>FINAL ANSWER: 9", None),
        ("<thinking>FINAL ANSWER: 9</thinking>FINAL ANSWER: 7", "7"),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer
