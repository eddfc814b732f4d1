/*
 * One worker between a source and a sink that keep their own positions, and
 * its death at any step: journal.c, outbox.c, checkpoint.c, recover.c, and
 * the exact positions of wallaroo-protocol(7).
 *
 * The source is a connection that stays open: the kernel has handed over
 * `taken` bytes.  The sink is one too: the kernel has accepted `accepted`.
 * Bytes are records.  What survives: journal (head, tail, the staged entry),
 * done, the outbox, the committed checkpoint, both kernels' positions.
 *
 * Promises: the state counts each byte once, the sink gets each output once
 * and in order, and head <= checkpoint <= done <= tail always.
 *
 * bugs: TRIM_EARLY CKPT_AT_TAIL UNSTAGED SOURCE_BACK NO_DROP UNCUT
 * bugs: FREE_UNACKED
 */
#ifndef N
#define N	4
#endif
#ifndef DEATHS
#define DEATHS	3
#endif

/* The kernels. */
byte taken, accepted, acked;

/* The journal. */
byte head, tail, done;
bool staged;			/* a header is written, then read(2) */

/* The checkpoint: what is committed, and the one being written. */
byte ckpt_pos, ckpt_state;
byte next_pos, next_state;
bool committing;

/* The outbox: outputs (box_head, box_tail] */
byte box_head, box_tail;

/* What dies. */
byte pos, state, offset;	/* offset: bytes asked of the source */
bool writing;

byte deaths;

inline positions() {
	assert(head <= ckpt_pos && ckpt_pos <= done && done <= tail)
}

inline recover() {
	committing = false;
	writing = false;
#ifndef BUG_UNSTAGED
	/* Bytes read, not published: the kernel's position tells. */
	if
	:: staged && taken > tail -> tail = taken
	:: else
	fi;
#endif
	staged = false;
#ifndef BUG_UNCUT
	if
	:: box_tail > done -> box_tail = done
	:: else
	fi;
#endif
	assert(head <= ckpt_pos);	/* else the journal has a gap */
	pos = ckpt_pos;
	state = ckpt_state;
#ifdef BUG_SOURCE_BACK
	offset = ckpt_pos;
#else
	offset = tail;
#endif
	/* What the receiver's kernel has is not written again. */
	positions()
}

active proctype worker() {
	do
	/* Source: header, read(2), length. */
	:: d_step { !staged && tail < N && tail - head < 3 -> staged = true }
	:: d_step { staged && taken == tail && taken < N ->
		taken++;
		offset++ }
	:: d_step { staged && taken > tail ->
		assert(offset == taken);	/* as both count them */
		tail = taken;
		staged = false;
		positions() }

	/* Step: state, outputs, then done. */
	:: d_step { pos < tail && !writing && pos < done ->
		pos++;
		state++;
#ifdef BUG_NO_DROP
		box_tail++
#endif
	   }
	:: d_step { pos < tail && !writing && pos == done ->
		state++;
		box_tail++;
		writing = true }
	:: d_step { writing ->
		pos++;
		done = pos;
		writing = false;
		positions() }

	/* Sink: the kernel accepts, later the receiver's acknowledges. */
	:: d_step { accepted < box_tail && accepted < done ->
		assert(box_head <= accepted);	/* still there to be sent */
		accepted++ }
	:: d_step { acked < accepted -> acked++ }
	:: d_step { box_head < acked -> box_head++ }
#ifdef BUG_FREE_UNACKED
	/* Freed when it was sent first, though a reset may ask for it. */
	:: d_step { box_head < done -> box_head = done }
#endif

	/* Checkpoint: a copy, a commit, then the journal before it is free. */
	:: d_step { !committing && !writing && pos == done &&
	    pos > ckpt_pos ->
#ifdef BUG_CKPT_AT_TAIL
		next_pos = tail;
#else
		next_pos = pos;
#endif
		next_state = state;
		committing = true;
#ifdef BUG_TRIM_EARLY
		head = next_pos;
#endif
	   }
	:: d_step { committing ->
		ckpt_pos = next_pos;
		ckpt_state = next_state;
		committing = false;
		positions() }
	:: d_step { !committing && head < ckpt_pos -> head = ckpt_pos }

	/* Death; the receiver resets: what was not acknowledged comes again
	 * on a new connection. */
	:: d_step { deaths < DEATHS -> deaths++; recover() }
	:: d_step { deaths < DEATHS && accepted > acked ->
		deaths++;
		accepted = acked }

	/* All is done. */
	:: d_step { tail == N && pos == N && done == N && accepted == N &&
	    !writing ->
		assert(state == N);
		assert(box_tail == N) } ->
		break
	od
}
