"""From HAM10000 to a trained and judged skin-lesion classifier.

Data flows one way: ``ham10000`` -> ``shards`` -> ``loading`` -> ``train.py`` and ``eval.py``;
``learning`` and ``evaluation`` serve the two scripts. A room knows only the rooms before it.
"""
