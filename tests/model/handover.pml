/*
 * A client's connection between the kernel, the supervisor, who keeps a
 * duplicate, and worker after worker: hold.c, child.c, source.c.  Worker and
 * supervisor may die at any step; systemd keeps the supervisor's descriptors.
 *
 * The client sends K bytes and closes.  Bytes stay in the socket until they
 * are read; the socket lives while anybody has it.  A worker's death is known
 * to the supervisor at once, but its process is gone only later, and a child
 * of it that saves a snapshot later still.
 *
 * Promises: while the client's bytes are not all in a journal somebody has
 * the socket; two processes never own the worker's files; bytes are in the
 * journal once; in the end nobody has the socket.
 *
 * bugs: LATE_HOLD DROP_FIRST NO_WAIT NO_STORE FORGET_EARLY CHILD_COMMITS
 */
#ifndef K
#define K	2
#endif
#ifndef DEATHS
#define DEATHS	3
#endif

byte in_socket = K;		/* with the end behind them */
bool accepted;

/* Who has the socket. */
bool sup_has, work_has, store_has;

/* The worker; `old` is a dead one whose process is not gone. */
bool alive = true, old, child;
bool told;			/* it got the socket from the supervisor */
byte owners = 1;

/* Its journal. */
byte journaled;
bool end_journaled, forgotten;

/* Its checkpoint, written by whoever owns the files. */
byte saved, child_saved;

bool asked_close, dropped;
byte deaths;

inline somebody() {
	assert(!accepted || sup_has || work_has || store_has ||
	    (journaled == K && end_journaled))
}

inline die() {
	alive = false;
	work_has = false;
	told = false;
	asked_close = false;
	old = true
}

active proctype machine() {
	do
	/* accept: the duplicate is registered and stored, then handed over */
	:: d_step { !accepted ->
		accepted = true;
#ifdef BUG_LATE_HOLD
		work_has = alive;
		told = alive;
#else
		sup_has = true;
#ifndef BUG_NO_STORE
		store_has = true;
#endif
#endif
		somebody() }
#ifdef BUG_LATE_HOLD
	:: d_step { accepted && work_has && !sup_has && !dropped ->
		sup_has = true;
		store_has = true }
#endif
	:: d_step { sup_has && alive && !told && !forgotten ->
		work_has = true;
		told = true }

	/* The worker reads, to the end. */
	:: d_step { alive && work_has && in_socket > 0 ->
		in_socket--;
		journaled++;
		assert(journaled + in_socket == K) }
	:: d_step { alive && work_has && in_socket == 0 && !end_journaled ->
		end_journaled = true }
#ifdef BUG_DROP_FIRST
	/* The supervisor sees the client's end and takes it for the last. */
	:: d_step { sup_has && accepted ->
		sup_has = false;
		store_has = false;
		dropped = true }
#endif

	/* Done with: close(id), dropped(id), forget. */
	:: d_step { alive && work_has && end_journaled && !asked_close ->
		asked_close = true;
		work_has = false;
#ifdef BUG_FORGET_EARLY
		forgotten = true;
#endif
	   }
	:: d_step { alive && asked_close && sup_has ->
		sup_has = false;
		store_has = false;
		dropped = true;
		somebody() }
	:: d_step { alive && dropped && !forgotten ->
		forgotten = true;
		work_has = false }

	/* Deaths.  The socket goes with the last who has it. */
	:: d_step { deaths < DEATHS && alive ->
		deaths++;
		die();
		somebody() }
	:: d_step { deaths < DEATHS && accepted ->
		/* The supervisor, and with it all its workers. */
		deaths++;
		sup_has = store_has;
		if
		:: alive -> die()
		:: else
		fi;
		somebody() }

	/* A snapshot child lives as long as it likes. */
	:: d_step { alive && !child && journaled > saved ->
		child = true;
		child_saved = journaled }
	:: d_step { child ->
		child = false;
#ifdef BUG_CHILD_COMMITS
		/* An orphan would put its old count over a newer one. */
		assert(saved <= child_saved);
		saved = child_saved;
#else
		if
		:: alive && child_saved > saved -> saved = child_saved
		:: else
		fi;
#endif
	   }

	/* The old process ends; then a new one, which has the journal. */
	:: d_step { old ->
		old = false;
		owners-- }
#ifdef BUG_NO_WAIT
	:: d_step { !alive ->
#elif defined(BUG_CHILD_COMMITS)
	:: d_step { !alive && !old ->
#else
	:: d_step { !alive && !old && !child ->
#endif
		alive = true;
		owners++;
		assert(owners == 1);
		saved = journaled }

	/* All is done. */
	:: d_step { alive && accepted && forgotten && !old && !child ->
		assert(journaled == K && end_journaled);
		assert(!sup_has && !work_has && !store_has) } ->
		break
	od
}
