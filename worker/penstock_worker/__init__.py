"""
The worker's side of Penstock: Celery app, batches, store, migrations, the embedded stack and the command line.
"""
