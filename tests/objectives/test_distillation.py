"""Distillation: the loss against a plain computation, and the teacher that a config names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from esc_jax.models import model as models
from esc_jax.objectives.base import Keys
from esc_jax.objectives.distillation import Distillation, Teacher
from esc_jax.objectives.supervised import Supervised
from esc_jax.tasks import registry as tasks
from tests.training import helpers


@pytest.fixture
def config():
    config = helpers.resnet()
    config.train.update(batch_size=8)
    config.augment.update(gain_db=6.0, mixup_alpha=0.5)
    config.distill.update(weight=0.7, temperature=3.0)
    return config


def objectives(config, classes):
    student, teacher = models.create(config, classes), models.create(config, classes, seed=1)
    task = tasks.get("single_label")
    return (
        Distillation(config, student, task, teacher=Teacher(teacher, temperature=0.5)),
        Supervised(config, student, task),
        student,
        teacher,
    )


@pytest.mark.slow
def test_the_loss_is_that_of_the_definition(config, noise_clips):
    distillation, supervised, student, teacher = objectives(config, noise_clips.classes)
    batch = {"audio": noise_clips.read(range(8)), "label": noise_clips.labels[:8], "step": jnp.int32(0)}

    def both(key):
        keys = Keys(*jax.random.split(key))
        inputs = distillation.inputs(distillation.constants, key, batch)
        plain = supervised.inputs(None, key, batch)
        loss = distillation.loss(student.variables, None, distillation.constants, inputs, keys)
        return inputs, plain, loss, supervised.loss(student.variables, None, None, plain, keys)

    mapped = jax.pmap(both, axis_name="batch", devices=jax.local_devices()[:1])
    outputs = mapped(jax.random.split(jax.random.key(3), 1))
    inputs, plain, loss, labels_only = jax.tree.map(lambda x: np.asarray(x)[0], outputs)
    np.testing.assert_array_equal(inputs.examples.features, plain.features)
    # The teacher has the frontend of the student here, and nothing is masked: it gets the same features.
    expected = teacher.module.apply(teacher.variables, plain.features)
    np.testing.assert_allclose(inputs.teacher_logits, expected / 0.5, rtol=1e-4, atol=1e-4)
    forward = functools.partial(student.module.apply, train=True, mutable=["batch_stats"])
    logits, _ = jax.vmap(lambda x: forward(student.variables, x), axis_name="batch")(plain.features[None])
    logits = logits[0]
    target = scipy.special.softmax(np.asarray(inputs.teacher_logits, np.float64) / 3.0, axis=1)
    cross_entropy = -(target * scipy.special.log_softmax(np.asarray(logits, np.float64) / 3.0, axis=1)).sum(1)
    np.testing.assert_allclose(loss.loss, 0.3 * labels_only.loss + 0.7 * 9.0 * cross_entropy, rtol=1e-3)
    np.testing.assert_allclose(loss.metrics["teacher_loss"], cross_entropy, rtol=1e-3)


@pytest.mark.extended
def test_without_weight_the_training_is_that_of_the_labels(config, noise_clips):
    config.distill.weight = 0.0
    distillation, supervised, student, _ = objectives(config, noise_clips.classes)
    after = []
    for objective in (distillation, supervised):
        state, _ = helpers.train_objective(config, objective, student, noise_clips, count=3)
        after.append(state.params)
    jax.tree.map(np.testing.assert_array_equal, *after)


@pytest.mark.slow
def test_the_student_learns_the_decisions_of_its_teacher(config, noise_clips):
    """The weight 1 leaves nothing of the labels."""
    config.distill.update(weight=1.0, temperature=1.0)
    config.augment.update(gain_db=0.0, mixup_alpha=0.0)
    config.optim.lr = 1e-2
    distillation, _, student, teacher = objectives(config, noise_clips.classes)
    state, _ = helpers.train_objective(config, distillation, student, noise_clips, count=60)
    features = student.frontend(noise_clips.read(range(12)).astype(np.float32) / 32768)
    decisions = [
        np.asarray(teacher.module.apply(variables, features)).argmax(1)
        for variables in (state.weights(), teacher.variables)
    ]
    assert (decisions[0] == decisions[1]).mean() > 0.9


@pytest.mark.extended
def test_several_devices_give_the_same_run(config, noise_clips):
    results = []
    for devices in (1, 4):
        distillation, _, student, _ = objectives(config, noise_clips.classes)
        state, _ = helpers.train_objective(config, distillation, student, noise_clips, count=3, devices=devices)
        results.append(state.params)
    # Sums over devices are in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)
