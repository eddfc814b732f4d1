/*
 * durability = machine: two workers on one machine that loses its power.
 * What leaves the machine waits until it is stable: the records up to the
 * entry that caused it are synced, and so is every frame among them at its
 * sender.
 *
 * A journals inputs of two kinds in the order in which they come, and sends
 * each to B.  B journals the frames and gives an output for each.  After the
 * loss each goes back to what it has synced, or more by luck; A and B agree
 * on the largest cut in which B has no frame that A doesn't have; clients
 * send again what was never acknowledged, in another order.
 *
 * Promises: whatever was seen outside stays true: A's journal has, at that
 * place, what the output said; and what was acknowledged is not lost.
 *
 * bugs: NO_SYNC NO_SENDER NO_CUT ACK_EARLY KEEP_MARK
 */
#ifndef N
#define N	3
#endif
#ifndef LOSSES
#define LOSSES	2
#endif
#define LAST	(N + 1)

/* A's journal, and how far it is written and synced. */
bit a[LAST];
byte a_tail, a_sync;
byte acked;			/* told to clients */

/* B's: frames of A, and what A has announced as stable. */
bit b[LAST];
byte b_tail, b_sync, a_stable;

/* Outside. */
bit seen[LAST];
byte out;			/* outputs seen */

byte losses, i, cut;

inline check_seen() {
	assert(a_tail >= acked);
	i = 1;
	do
	:: i <= out ->
		assert(i <= a_tail && a[i] == seen[i]);
		i++
	:: else -> break
	od;
	i = 0
}

active proctype machine() {
	bit kind;

	do
	:: atomic { a_tail < N ->
		if
		:: kind = 0
		:: kind = 1
		fi;
		d_step { a_tail++; a[a_tail] = kind; kind = 0 } }
	:: d_step { a_sync < a_tail -> a_sync = a_tail }
#ifdef BUG_ACK_EARLY
	:: d_step { acked < a_tail -> acked = a_tail }
#else
	:: d_step { acked < a_sync -> acked = a_sync }
#endif

	/* Frames flow at once; stable positions follow them. */
	:: d_step { b_tail < a_tail -> b_tail++; b[b_tail] = a[b_tail] }
	:: d_step { b_sync < b_tail -> b_sync = b_tail }
	:: d_step { a_stable < a_sync -> a_stable = a_sync }

	/* Out of the machine. */
	:: d_step {
#ifdef BUG_NO_SYNC
	    out < b_tail && out < a_stable ->
#else
#ifdef BUG_NO_SENDER
	    out < b_sync ->
#else
	    out < b_sync && out < a_stable ->
#endif
#endif
		out++;
		seen[out] = b[out] }

	/* The power goes.  Of what was not synced any beginning is left. */
	:: atomic { losses < LOSSES ->
		losses++;
		do
		:: a_tail > a_sync -> a[a_tail] = 0; a_tail--
		:: break
		od;
		do
		:: b_tail > b_sync -> b[b_tail] = 0; b_tail--
		:: break
		od;
		d_step {
		/* B goes on behind what it has given away. */
		assert(b_tail >= out);
#ifndef BUG_NO_CUT
		cut = (a_tail < b_tail -> a_tail : b_tail);
		do
		:: b_tail > cut -> b[b_tail] = 0; b_tail--
		:: else -> break
		od;
		cut = 0;
#endif
		a_sync = a_tail;
		b_sync = b_tail;
#ifndef BUG_KEEP_MARK
		a_stable = (a_stable < a_tail -> a_stable : a_tail);
#else
		a_stable = N;
#endif
		check_seen() } }

	:: d_step { out == N ->
		check_seen() } ->
		break
	od
}
