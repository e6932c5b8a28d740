"""Pure maths on torch tensors: the one scan kernel, returns, distributions, schedules, networks, the flat optimiser."""
