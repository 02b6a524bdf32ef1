# SPDX-License-Identifier: MIT
# Bars beside each other, a group for each x, their values above them. Called by plots, with x_label, y_label and perhaps
# decades: a logarithmic axis from there on.
groups = system(sprintf("awk -F '\\t' 'NF && !/^#/ { print $1 }' '%s' | sort -g | uniq", data))
group(x) = sum [g = 1:words(groups)] (real(word(groups, g)) == x ? g : 0)
set xlabel x_label offset 0,0.2
set ylabel y_label
set xtics () # by number below
do for [g = 1:words(groups)] { set xtics add (short_number(real(word(groups, g))) g) }
set xrange [0.45:words(groups) + 0.55]
if (exists("decades")) {
	set logscale y
	eval "set ytics " . count_ticks
	set yrange [decades:*]
} else {
	set yrange [0:*]
}
set autoscale yfixmax
set offsets 0, 0, graph 0.08, 0
unset grid
set grid ytics linecolor "#d8d8d8" linetype 1 linewidth 0.7
set style fill solid noborder
set boxwidth 0.8 / (n_series + 0.5) absolute
at(x, i) = group(x) + (i - (n_series - 1) / 2.0) * 0.8 / n_series
plot for [i = 0:n_series - 1] data index i using (at($1, i)):2 with boxes linetype series_style(i) title series_name(i), \
	for [i = 0:n_series - 1] data index i using (at($1, i)):2:(short_number($2)) with labels offset 0,0.7 notitle
