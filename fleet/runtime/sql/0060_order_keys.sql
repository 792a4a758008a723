-- A watermark names an order by its symbol too (fleet/core/recovery.py, order_key): Binance counts the orders of each symbol apart.
UPDATE stream_watermarks
SET watermark = watermark - 'open_orders' - 'resting' || jsonb_build_object('orders', COALESCE((
    SELECT jsonb_object_agg(o.value || '|' || o.key, watermark -> 'resting' -> o.key)
    FROM jsonb_each_text(watermark -> 'open_orders') o
    WHERE watermark -> 'resting' ? o.key
), '{}'))
WHERE watermark ? 'open_orders';
