# All tables are sound, and every sale is booked.
set -e
mariadb -N -e 'CHECK TABLE shop.stock, shop.sales EXTENDED' >/run/tables
cat /run/tables
[ "$(grep -c 'status	OK' /run/tables)" = 2 ]
booked=$(mariadb -N -e 'SELECT (SELECT SUM(sold) FROM shop.stock) = (SELECT COUNT(*) FROM shop.sales)')
[ "$booked" = 1 ]
