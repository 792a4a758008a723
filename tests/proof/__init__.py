"""Layer 1 of the proof of shared/design/ownership.md: the real control path under a virtual clock. See docs/proof.md."""
