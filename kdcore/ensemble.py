"""Several networks as one: the mean of their probabilities, calibrated."""

from collections.abc import Iterable, Sequence

import keras
import numpy as np

from kdcore.data.cases import Case
from kdcore.heads import check_head, check_input
from kdcore.inference import as_answers, predict_probabilities
from kdcore.losses import check_temperature, mean_region_logits, mean_teacher_logits, to_float
from kdcore.normalization import Normalization
from kdcore.unet import leave_out_own_losses


def ensemble(
    networks: Sequence[keras.Model],
    temperature: float = 1.0,
    name: str = "ensemble",
    regions: bool = False,
) -> keras.Model:
    """A network whose probabilities are the mean of several networks', then tempered.

    Args:
        networks: With the same input and the same classes, raw logits out.
        temperature: T > 0 that divides the mean's logits; above 1 it makes them less sure. See
            `fit_temperature`.
        name: Of the model.
        regions: Whether the channels are regions that may overlap, each with a sigmoid of its own,
            for cases with `regions`.

    Returns:
        A functional `keras.Model` with raw logits, to be used, saved and distilled like any
        other; of kdcore it holds nothing but what its networks hold.

    Raises:
        ValueError: If there are no networks, their inputs or classes differ, or two have one name.

    Reference: Lakshminarayanan et al. 2017, section 2.4, https://arxiv.org/abs/1612.01474
    """
    if not networks:
        raise ValueError("An ensemble needs at least one network.")
    for model in networks:
        check_head(model)
        check_input(model)
    shapes = {tuple(model.input_shape[1:]) for model in networks}
    classes = {model.output_shape[-1] for model in networks}
    if len(shapes) > 1 or len(classes) > 1:
        raise ValueError(
            f"The networks must agree in input and classes. Received: {sorted(map(str, shapes))} "
            f"and {sorted(classes)} classes."
        )
    if len({model.name for model in networks}) < len(networks):
        raise ValueError(
            f"The networks must have different names. Received: {[m.name for m in networks]}. "
            "Build them with name=."
        )
    image = keras.Input(shapes.pop(), name="image")
    outputs = [network(image) for network in networks]
    mean = mean_region_logits if regions else mean_teacher_logits
    logits = to_float(mean(outputs)) / check_temperature(temperature)
    model = keras.Model(image, logits, name=name)
    leave_out_own_losses(model)
    return model


def fit_temperature(
    network: keras.Model,
    cases: Iterable[Case],
    normalization: Normalization = "percentile",
    voxels_a_case: int = 20_000,
) -> float:
    """The temperature at which the network's negative log-likelihood on cases is least.

    Args:
        network: Raw logits out.
        cases: With masks, that the network was not trained on: validation cases.
        normalization: The one the network was trained with.
        voxels_a_case: Random voxels to look at; the fit needs no more.

    Returns:
        T in [0.1, 10]; above 1 for a network that is too sure.

    Reference: Guo et al. 2017, section 4.2, https://arxiv.org/abs/1706.04599
    """
    from scipy import optimize, special

    logs, labels = [], []
    for case in cases:
        if case.mask is None:
            raise ValueError(f"{case.case_id} has no mask, so nothing can be calibrated on it.")
        answers, p = as_answers(
            case.mask, predict_probabilities(network, case, normalization), case
        )
        chosen = np.flatnonzero(answers >= 0)
        chosen = np.random.default_rng(0).permutation(chosen)[:voxels_a_case]
        logs.append(np.log(np.maximum(p[chosen], 1e-30)))
        labels.append(answers[chosen])
    if not logs:
        raise ValueError("fit_temperature needs at least one case.")
    logits, label = np.concatenate(logs), np.concatenate(labels)[:, None].astype(int)

    def negative_log_likelihood(log_t: float) -> float:
        log_p = special.log_softmax(logits / np.exp(log_t), axis=-1)
        return -float(np.take_along_axis(log_p, label, axis=-1).mean())

    bounds = (np.log(0.1), np.log(10.0))
    best = optimize.minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    return float(np.exp(best.x))
