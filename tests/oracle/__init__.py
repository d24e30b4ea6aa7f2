"""Kubernetes' own allocator as the judge of ours: random questions, both answers, and what must be equal."""
