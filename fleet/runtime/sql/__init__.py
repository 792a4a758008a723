"""SQL of the shared tables, as package data.

`NNNN_*.sql` are migrations, applied once and in order by `fleet.runtime.postgres.migrate`; never edit one that was
released, add the next number. Every other file holds named statements for `fleet.runtime.postgres.queries`.
"""
