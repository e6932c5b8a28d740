"""`shoal.register`: algorithms, networks and environments of the user's own, by name.

Call it at the top level of a module, and name the module with `--import package.module`: every process imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Register:
    """The three things that can be added. Each name must be free; registering the same thing again is no mistake."""

    @staticmethod
    def algorithm(name: str, algorithm: type[Any]) -> None:
        """Make `--algorithm NAME` mean a class with the contract's six methods and a `Config` of settings.

        Raises ConfigError where the name is another's, or there is no Config.
        """
        from core.algorithms import register

        register(name, algorithm)

    @staticmethod
    def network(name: str, torso: Callable[[Any], Any]) -> None:
        """Make the setting `network: NAME` mean `torso(spec)`, a core.rl.torsos.Torso: observations to features.

        Raises ConfigError where the name is another's.
        """
        from core.rl.torsos import register

        register(name, torso)

    @staticmethod
    def environment(name: str, factory: Callable[..., Any]) -> None:
        """Make `--env NAME` mean `factory(**env_kwargs)`, which gives a gymnasium.Env.

        With a parameter `num_envs` it gives a gymnasium.vector.VectorEnv that resets in NEXT_STEP mode. Raises
        ConfigError where the name is another's.
        """
        from core.envs import register

        register(name, factory)


register = Register()
