/*
 * A channel of one exchange between two workers, both of which may die at any
 * step: wallaroo-protocol(7), peer.c, outbox.c.
 *
 * The sender works on records 1..N.  Each gives a frame for the receiver or
 * not, and one for a second outbox, which only shows whether both are cut
 * alike.  User code is not even deterministic here: a record that is worked
 * on again may decide otherwise.
 *
 * What survives a death: the outboxes and `done` (mapped), the checkpoint,
 * the receiver's journal and the mark in it.  What does not: pos, and the
 * sockets with all that is in them.
 *
 * Promises: the receiver's journal gets each frame that was released once,
 * in order; both outboxes hold the same records; all of it ends.
 *
 * bugs: TAILS ACK_EARLY NO_MARK BY_COUNT UNRELEASED UNCUT
 */
#ifndef N
#define N	3
#endif
#ifndef DEATHS
#define DEATHS	3
#endif
#define LAST	(N + 1)

/* The sender. */
byte pos, ckpt, done;
bool writing;			/* outputs are written, done is not */
bool decided;			/* what it gave, while writing */
bool released[LAST];		/* records that gave a frame, up to done */
bool box[LAST];			/* the outbox has a frame of this record */
byte head, tail;		/* acknowledged, written up to */
byte tail2;			/* of the other outbox */
byte owed;			/* BY_COUNT: frames that a replay drops */

/* The connection. */
bool up;
byte sent;
chan wire = [2] of { byte };
chan back = [2] of { byte };

/* The receiver. */
byte mark;			/* journaled up to */
bool journal[LAST];
byte held;			/* ACK_EARLY: read, not yet journaled */

byte deaths, i;

inline disconnect() {
	up = false;
	do
	:: wire?[_] -> wire?i
	:: back?[_] -> back?i
	:: else -> break
	od;
	i = 0
}

/* Outbox records above `done` do not exist. */
inline recover() {
#ifdef BUG_TAILS
	/* Each outbox is believed by itself. */
	if
	:: tail > done -> done = tail; released[tail] = box[tail]
	:: else
	fi;
#endif
#ifndef BUG_UNCUT
	i = done + 1;
	do
	:: i <= N -> box[i] = false; i++
	:: else -> break
	od;
	if
	:: tail > done -> tail = done
	:: else
	fi;
#endif
#ifndef BUG_TAILS
	if
	:: tail2 > done -> tail2 = done
	:: else
	fi;
#endif
	writing = false;
	pos = ckpt;
	owed = 0;
#ifdef BUG_BY_COUNT
	i = ckpt + 1;
	do
	:: i <= done -> owed = owed + released[i]; i++
	:: else -> break
	od;
#endif
	i = 0
}

inline journaled(p) {
	assert(!journal[p]);		/* nothing twice */
	assert(p > mark);		/* in order */
	journal[p] = true;
	mark = p
}

active proctype cluster() {
	byte p;
	bool gives;

	do
	/* A replay: what has left is dropped, by position. */
	:: d_step { pos < done && !writing ->
		pos++ }
#ifdef BUG_BY_COUNT
	/* A replay decides otherwise, and drops as many as had left. */
	:: d_step { pos < done && !writing && owed == 0 ->
		pos++;
		box[pos] = true }
	:: d_step { pos < done && !writing && owed > 0 ->
		pos++;
		owed-- }
#endif
	/* A record for the first time: outputs, then done. */
	:: atomic { pos == done && pos < N && !writing ->
		if
		:: gives = true
		:: gives = false
		fi;
		d_step {
		    decided = gives;
		    /* Behind what is there, if that was not cut. */
		    box[pos + 1] = box[pos + 1] || gives;
		    tail = pos + 1;
		    writing = true } }
	:: d_step { writing && tail2 < pos + 1 -> tail2 = pos + 1 }
	:: d_step { writing && tail2 == pos + 1 ->
		pos++;
		released[pos] = decided;
		decided = false;
		done = pos;
		writing = false }
	:: d_step { pos == done && !writing && ckpt < pos -> ckpt = pos }

	/* The connection. */
	:: d_step { !up ->
#ifdef BUG_NO_MARK
		sent = head;
#else
		/* The receiver says where to go on. */
		if
		:: mark > head -> head = mark
		:: else
		fi;
		sent = head;
#endif
		up = true }
#ifdef BUG_UNRELEASED
	:: atomic { up && sent < tail && nfull(wire) ->
#else
	:: atomic { up && sent < tail && sent < done && nfull(wire) ->
#endif
		sent++;
		if
		:: box[sent] -> wire!sent
		:: else
		fi }
#ifdef BUG_ACK_EARLY
	:: atomic { wire?[p] && nfull(back) && held == 0 ->
		wire?p;
		if
		:: p > mark -> held = p
		:: else
		fi;
		back!p }
	:: d_step { held != 0 -> journaled(held); held = 0 }
#else
	:: atomic { wire?[p] && nfull(back) ->
		wire?p;
#ifdef BUG_NO_MARK
		journaled(p);
#else
		if
		:: p > mark -> journaled(p)
		:: else			/* sent again: we have it */
		fi;
#endif
		back!p }
#endif
	:: atomic { back?[p] ->
		back?p;
		if
		:: p > head -> head = p
		:: else
		fi }

	/* Deaths. */
	:: d_step { deaths < DEATHS ->
		deaths++; disconnect(); recover() }
	:: d_step { deaths < DEATHS ->
		deaths++; held = 0; disconnect() }

	/* All is done. */
	:: d_step { pos == N && done == N && up && sent == N &&
	    empty(wire) && empty(back) && held == 0 ->
		assert(tail == N && tail2 == N);
		i = 1;
		do
		:: i <= N ->
			assert(journal[i] == released[i]);
			i++
		:: else -> break
		od;
		i = 0 } ->
		break
	od
}
