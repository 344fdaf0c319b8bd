"""The Celery application and its settings, which are read when Celery first asks for one.

Redis is the broker. A message may be lost (a worker killed between BRPOP and its bookkeeping) or come
twice (late acknowledgement). Neither does harm: a refresh is guarded by its lease, and the schedule asks
again for what was lost. Nothing but JSON is ever read from a queue.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from holdfast.errors import exit_on_error
from holdfast.settings import BrokerSettings
from holdfast_workers.environment import pass_over

QUEUE = "holdfast"
REFRESH_TASK = "holdfast.refresh"
WARM_TASK = "holdfast.warm"
SOCKET = {
    # Without these, kombu would wait forever for a broker that is silent.
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 5,
}


def configuration() -> dict[str, Any]:
    """Celery's settings. Times are in seconds.

    A wrong setting ends the process here, with one line: an exception would leave Celery with the settings
    of its own, and its commands would show it as a traceback.
    """
    with exit_on_error():
        broker = BrokerSettings.load().dsn()
    return {
        "broker_url": broker,
        "broker_transport_options": {**SOCKET, "visibility_timeout": 3600, "global_keyprefix": "celery:"},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_default_queue": QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "result_expires": None,
        "task_acks_late": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "task_soft_time_limit": 120,
        "task_time_limit": 150,
        "worker_prefetch_multiplier": 4,
        "worker_soft_shutdown_timeout": 5,
        "worker_hijack_root_logger": True,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "event_queue_expires": 60,
        "beat_scheduler": "holdfast_workers.schedule:Scheduler",
        "beat_max_loop_interval": 5,
        "redbeat_redis_url": broker,
        "redbeat_redis_options": SOCKET,
        "redbeat_key_prefix": "redbeat:",
        # Five times the loop: another beat takes over from one that died within 30 s.
        "redbeat_lock_timeout": 25,
        "timezone": "UTC",
        "enable_utc": True,
    }


# Before anything asks for a setting: Celery looks at its variables first.
pass_over()
# The loader by its name: without one Celery would take that of CELERY_LOADER.
app = Celery("holdfast", loader="celery.loaders.app:AppLoader", include=["holdfast_workers.tasks"])
app.add_defaults(configuration)
