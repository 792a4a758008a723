"""What recovery, dialling and audits cost at the size of a fleet, and whether they keep the exchange's limits."""
