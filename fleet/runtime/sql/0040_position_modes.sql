-- OKX holds a cross and an isolated position of one symbol and side side by side: there the margin mode is part of the key. It is ''
-- elsewhere, because a position of Binance or Bybit may change its mode and stay one row (fleet/core/events.py, Position.mode_key).
ALTER TABLE positions ADD COLUMN mode_key text NOT NULL DEFAULT '';
UPDATE positions SET mode_key = margin_mode WHERE exchange = 'okx';
ALTER TABLE positions
    DROP CONSTRAINT positions_pkey,
    ADD PRIMARY KEY (account_id, exchange, market, symbol, position_side, mode_key);
