"""Compiled decoders: bytes of a wire protocol to Arrow columns."""
