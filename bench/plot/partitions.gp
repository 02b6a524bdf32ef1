# SPDX-License-Identifier: MIT
# Nanoseconds by number of partitions. Called by plots, for `peers` and `calls`.
set logscale xy
set xlabel "partitions" offset 0,0.2
set ylabel y_label
eval "set xtics " . count_ticks
eval "set ytics " . ns_ticks
plot for [i = 0:n_series - 1] data index i using 1:2 with linespoints linetype series_style(i) title series_name(i)
