"""Graders: what an answer is worth, said by a declaration of OpenAI's form. Nothing that a client writes is run as code.

    spec          the declarations: string_check, text_similarity, score_model, label_model, multi
    templates     {{item.x}} and {{sample.output_text}}: look-ups in plain JSON, and nothing else
    formula       calculate_output: arithmetic over the scores of a multi grader
    similarity    the measures of text_similarity
    asking        what a model that grades is asked, with a guard around what stands in rows
    grading       grade(grader, item, sample, models) -> Grade

A grader of kind `python` is refused: no code of clients is run here.
"""
