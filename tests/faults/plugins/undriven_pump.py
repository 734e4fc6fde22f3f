"""A pump whose driver is not installed."""

import driver_that_nobody_has  # type: ignore[import-not-found]


class UndrivenPump:
    """Never reached: the import above fails."""

    driver = driver_that_nobody_has
