"""The data half: from raw documents to packed rows.

It imports nothing of training, evaluation or orchestration, so a change there makes no data stale.
"""
