"""The Celery app that Flower looks at: the broker, prefix and credentials that the workers use."""

from dgq.worker.fleet.app import make_app
from dgq.worker.settings import load_settings

app = make_app(load_settings())
