"""The texts that the bundled models were trained on: `build_pocket.py`, `reward_models/pocket/`."""
