"""Tasks by name."""

from esc_jax.errors import UserError
from esc_jax.extensions import Registry
from esc_jax.tasks.base import Task
from esc_jax.tasks.multi_label import MultiLabel
from esc_jax.tasks.single_label import SingleLabel

TASKS: Registry[Task] = Registry(
    "esc_jax.tasks", {task.name: task for task in (SingleLabel(), MultiLabel())}, convert=lambda kind: kind()
)


class TaskError(UserError, ValueError):
    """A task that does not exist. The message is one sentence."""


def get(name: str) -> Task:
    """The task called `name`. Raises TaskError."""
    if name not in TASKS:
        raise TaskError(f"task={name}: the tasks are {', '.join(TASKS)}")
    return TASKS[name]
