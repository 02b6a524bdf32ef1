# SPDX-License-Identifier: MIT
# What all plots have in common: an opaque white sheet, so that they can be read on a page of any colour, and line styles
# by number: 1, 2 berth's own, 3 to 16 the peers', 17 and 18 what is only for comparison, 19 to 26 blackouts, 31 to 38
# those that are given in turn. Called by plots, which sets out, data, about, plot_title, and perhaps fine.
if (out[strlen(out) - 3:] eq ".png") {
	set terminal pngcairo noenhanced size 900,520 font "DejaVu Sans,10" background "#ffffff"
} else {
	set terminal svg noenhanced size 900,520 fixed background "#ffffff" \
		font "DejaVu Sans,Verdana,Helvetica,Arial,sans-serif,13"
}
set output out
set encoding utf8
set datafile separator "\t"

set title plot_title font ",15" textcolor "#111111"
set label 1 about at screen 0.985,0.022 right font ",10" textcolor "#666666"
set bmargin 4.6
set border 3 linecolor "#444444"
set tics nomirror out textcolor "#222222"
set grid xtics ytics linecolor "#d8d8d8" linetype 1 linewidth 0.7
set key outside right center Left reverse spacing 1.25 samplen 2.2 textcolor "#111111"

line(number, colour, width, dash, point) = sprintf("set linetype %d linecolor rgb '%s' linewidth %g dashtype %d " . \
	"pointtype %d pointsize 0.75", number, colour, width, dash, point)
eval line( 1, "#0b4fa0", 3.5, 1,  7)
eval line( 2, "#2f9bff", 3.5, 1,  5)
eval line( 3, "#111111", 1.6, 1,  6)
eval line( 4, "#777777", 1.6, 1,  4)
eval line( 5, "#777777", 1.6, 2,  6)
eval line( 6, "#1b8a3c", 1.6, 1,  9)
eval line( 7, "#e07b00", 1.6, 1, 11)
eval line( 8, "#b35600", 1.6, 2, 10)
eval line( 9, "#8e3fb8", 1.6, 1, 13)
eval line(10, "#8e3fb8", 1.6, 2, 12)
eval line(11, "#8a5a2b", 1.6, 1,  2)
eval line(12, "#008b8b", 1.6, 1,  1)
eval line(13, "#d0213d", 1.6, 1,  5)
eval line(14, "#d0213d", 1.6, 2,  4)
eval line(15, "#d6529c", 1.6, 1,  8)
eval line(16, "#999900", 1.6, 1,  3)
eval line(17, "#888888", 1.6, 2,  6)
eval line(18, "#bbbbbb", 1.6, 2,  4)
eval line(19, "#0b4fa0", 2.6, 1,  7)
eval line(20, "#0b4fa0", 2.0, 2,  6)
eval line(21, "#2f9bff", 2.6, 1,  5)
eval line(22, "#2f9bff", 2.0, 2,  4)
eval line(23, "#b35600", 2.6, 1,  7)
eval line(24, "#b35600", 2.0, 2,  6)
eval line(25, "#f0a030", 2.6, 1,  5)
eval line(26, "#f0a030", 2.0, 2,  4)
eval line(31, "#0b4fa0", 2.4, 1,  7)
eval line(32, "#e07b00", 2.4, 1,  5)
eval line(33, "#1b8a3c", 2.4, 1,  9)
eval line(34, "#d0213d", 2.4, 1, 11)
eval line(35, "#8e3fb8", 2.4, 1, 13)
eval line(36, "#008b8b", 2.4, 1,  8)
eval line(37, "#777777", 2.4, 1,  3)
eval line(38, "#8a5a2b", 2.4, 1,  1)

# Ticks in units that are read at a glance: a line at each power of ten; at twice and five times that a short one, or with
# `fine` a line too, where it is about two powers of ten in all.
label(v, units) = v < 1e3 ? sprintf("%g %s", v, word(units, 1)) : v < 1e6 ? sprintf("%g %s", v / 1e3, word(units, 2)) : \
	v < 1e9 ? sprintf("%g %s", v / 1e6, word(units, 3)) : sprintf("%g %s", v / 1e9, word(units, 4))
if (!exists("fine")) { fine = 0 }
tick(v, scale, units) = fine ? sprintf("'%s' %g, '%s' %g, '%s' %g", label(v, units), v / scale, label(2 * v, units), \
	2 * v / scale, label(5 * v, units), 5 * v / scale) : \
	sprintf("'%s' %g, '' %g 1, '' %g 1", label(v, units), v / scale, 2 * v / scale, 5 * v / scale)
ticks(from, to, scale, units) = from > to ? "" : \
	tick(from, scale, units) . (from * 10 > to ? "" : ", ") . ticks(from * 10, to, scale, units)
ns_ticks = "('0.1 ns' 0.1, " . ticks(1, 1e9, 1, "ns µs ms s") . ")"
ms_ticks = "(" . ticks(1e3, 1e10, 1e6, "ns µs ms s") . ")"
count_ticks = "('1' 1, '10' 10, '100' 1e2, '1,000' 1e3, '10,000' 1e4, '100,000' 1e5, '1 M' 1e6, '10 M' 1e7, '100 M' 1e8)"
# The sheet ends a little behind the data, not at the next power of ten.
set autoscale xfix
set autoscale yfix
set offsets graph 0.03, graph 0.03, graph 0.06, graph 0.06
with_comma(v) = v < 1000 ? sprintf("%.3g", v) : sprintf("%d,%03d", int(v / 1000), int(v) % 1000)
short_number(v) = v >= 1e6 ? sprintf("%.3g M", v / 1e6) : with_comma(v)

# Blocks of data, one a series: first style and name, then x and y.
series_name(i) = system(sprintf("awk -F '\\t' '/^#/ { if (n++ == %d) print $3 }' '%s'", i, data))
series_style(i) = int(system(sprintf("awk -F '\\t' '/^#/ { if (n++ == %d) print $2 }' '%s'", i, data)))
n_series = int(system(sprintf("grep -c '^#' '%s'", data)))
