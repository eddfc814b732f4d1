/*
 * Fuzz targets: one function for each parser that faces outside or reads a
 * file.  The same functions run under libFuzzer (make fuzz) and over the
 * committed inputs (make check); see main.c.
 *
 * A target takes any bytes.  What must not happen ends the process: a fault,
 * a sanitizer's report, a failed fuzz_check.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

#define FUZZ_TABLE(T)							\
	T(mp)		/* the MessagePack cursor */			\
	T(msg)		/* every message between processes */		\
	T(conf)		/* cluster.conf */				\
	T(confpack)	/* the configuration as workers get it */	\
	T(topo)		/* the pipeline as data */			\
	T(framing)	/* lines, frames and own headers of clients */	\
	T(entry)	/* what a journal's entries make an automaton do */ \
	T(connector)	/* the connector protocol, and saved streams */	\
	T(windows)	/* the same of windows, letters, restarts */	\
	T(journal)	/* a journal's file */				\
	T(outbox)	/* an outbox's file */				\
	T(checkpoint)	/* the automaton in a checkpoint */		\
	T(store)	/* the SQLite file */				\
	T(snapshot)	/* what a checkpoint says of an outbox */	\
	T(spread)	/* files of another number of workers */	\
	T(copy)		/* what a copy for a replay says of itself */	\
	T(peer)		/* what another worker sends */			\
	T(value)	/* Python values as bytes */			\
	T(letter)	/* what a dead letter keeps of its record */	\
	T(hold)		/* names in the descriptor store */		\
	T(inherit)	/* systemd's variables at the start */		\
	T(address)	/* HOST:PORT */					\
	T(proc)		/* lines of /proc, cgroups and workers.pids */	\
	T(catalog)	/* the supervisor's SQLite file */		\
	T(ctl)		/* what wallarooctl may send */			\
	T(external)	/* what programs of operators may send */	\
	T(worker)	/* what a worker may say to its supervisor */	\
	T(json)		/* what wallarooctl is answered */		\
	T(letters)	/* files of dead letters */

#define FUZZ_PROTOTYPE(name)	void fuzz_##name(const uint8_t *, size_t);
FUZZ_TABLE(FUZZ_PROTOTYPE)
#undef FUZZ_PROTOTYPE

/* Also in builds without assertions. */
#define fuzz_check(ok)							\
	do {								\
		if (!(ok))						\
			fuzz_failed(#ok, __FILE__, __LINE__);		\
	} while (0)
void	fuzz_failed(const char *, const char *, int) __attribute__((noreturn));

/* Take numbers from the head of the input; zero behind its end. */
struct fuzz_in {
	const uint8_t	*p;
	size_t		 n;
};
uint64_t fuzz_number(struct fuzz_in *, unsigned int bytes);
struct slice fuzz_rest(struct fuzz_in *);
/* As many bytes as the next one says, fewer than most (256 at most), or what
 * is left. */
struct slice fuzz_piece(struct fuzz_in *, size_t most);

/* A file of the given content, and its path, until the next one. */
const char *fuzz_file(const void *, size_t);
/* Write pieces of the input over bytes: u24 offset, u8 length, bytes. */
void	fuzz_patch(uint8_t *, size_t, struct fuzz_in *);

/* SQLite's files are in memory from the first call on; there are none. */
void	fuzz_db(void);
/* What is in one of them, which is made if need be. */
struct buf *fuzz_db_file(const char *path);

#endif
