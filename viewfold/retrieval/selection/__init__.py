"""Hits to demonstrations: filters, leakage guards, quotas, diversity, abstention, order, and the reasons for each."""
