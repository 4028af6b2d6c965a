"""The Celery app: queues, wake-up calls, nothing else.

A ticket names a batch and says that there is work; it carries no document and no state. Losing one
costs a moment (the janitor rings again), a second one costs nothing (the ledger has no work for it).
Hence early acknowledgement, no prefetching, and no results kept by Celery.
"""

from celery import Celery

from ..ledger.connection import SOCKET_TIMEOUT_S, broker_url
from ..ledger.keys import VERSION
from ..settings import Settings

TASK = f"dgq.{VERSION}.work"


def queue_name(label: str) -> str:
    """The queue of a label. Versioned: a worker discards messages that it does not know."""
    return f"dgq.{VERSION}.{label}"


def make_app(settings: Settings, *, client_name: str = "dgq-celery") -> Celery:
    """The app of a worker or of a client; connects to nothing yet.

    client_name: what CLIENT LIST shows of a broker that is a Redis.
    """
    app = Celery("dgq", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        task_default_queue=queue_name("default"),
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{settings.key_prefix}:",
            "visibility_timeout": 300,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "socket_connect_timeout": settings.connect_timeout_s,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "health_check_interval": 10,
            "client_name": client_name,
        },
    )
    return app


def ring(app: Celery, label: str, batch_id: str, count: int = 1) -> None:
    """Wake up to ``count`` slots of workers. Raises what kombu raises when the broker is gone."""
    if count < 1:
        return
    with app.producer_or_acquire() as producer:
        for _ in range(count):
            app.send_task(
                TASK,
                args=[batch_id],
                queue=queue_name(label),
                producer=producer,
                retry=True,
                retry_policy={"max_retries": 2, "interval_start": 0.2, "interval_step": 0.5},
            )
