"""The reference engine behind the protocol: text on one side, token ids on the other."""
