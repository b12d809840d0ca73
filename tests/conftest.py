"""What every test shares. Hypothesis has no deadlines: a slow machine is no fault of the code."""

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.load_profile("default")
