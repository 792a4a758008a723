-- Which revision of the account's row an ownership was given for; -1 = not known. A newer row needs a new token.
ALTER TABLE fleet_assignment ADD COLUMN revision bigint NOT NULL DEFAULT -1;
