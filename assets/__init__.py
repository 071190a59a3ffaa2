"""The data half: from raw documents to packed rows.

It may import `core`, and nothing of training, evaluation or orchestration. So a change there makes
no data stale.
"""
