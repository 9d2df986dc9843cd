"""The FlowMo network, its quantizer, tokens and sampler. It imports nothing of the other packages.

Users import these names from :mod:`flowmo`.
"""
