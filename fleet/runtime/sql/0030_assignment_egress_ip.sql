-- The source address an account's worker dials from, so that it is kept when Redis is rebuilt; '' = the worker's choice.
ALTER TABLE fleet_assignment ADD COLUMN egress_ip text NOT NULL DEFAULT '';
