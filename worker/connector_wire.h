/*
 * Frames of the connector protocol, version 3: what programs that feed a
 * source, or empty a sink, and workers say to each other.
 *
 * On the wire: u32 length of what follows, u8 tag, fields; all numbers are
 * big-endian.  WIRE(name, tag) and its fields are declared once; from these
 * lines come struct wire_NAME, WIRE_NAME, wire_put_NAME() and
 * wire_get_NAME().  Types of fields:
 *	u8 u32 u64
 *	text	u16 length, bytes
 *	blob	u32 length, bytes; nothing at all is an empty one
 *	rest	whatever is left
 *	pairs	u32 n, n times 16 bytes (two u64)
 *	ranges	u32 n, n times 24 bytes (three u64)
 *	texts	u32 n, n times text
 *
 * Slices that were got borrow from the frame.  A claimed length is compared
 * with what is there; nothing is allocated.
 */
#ifndef WORKER_CONNECTOR_WIRE_H
#define WORKER_CONNECTOR_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"

#define WIRE_HEADER	4		/* the length in front */
#define WIRE_NOTHING	UINT64_MAX	/* a point before the first one */

#define WIRE_TABLE(WIRE)						\
	WIRE(hello, 0)							\
	WIRE(ok, 1)							\
	WIRE(error, 2)							\
	WIRE(notify, 3)							\
	WIRE(notify_ack, 4)						\
	WIRE(message, 5)						\
	WIRE(ack, 6)							\
	WIRE(restart, 7)						\
	WIRE(eos, 8)							\
	/* Bodies of messages on stream 0 of a sink, without a length. */ \
	WIRE(list_uncommitted, 201)					\
	WIRE(reply_uncommitted, 202)					\
	WIRE(phase1, 203)						\
	WIRE(reply, 204)						\
	WIRE(phase2, 205)						\
	WIRE(workers_left, 206)

#define WIRE_FIELDS_hello(F)						\
	F(text, version) F(text, cookie) F(text, program) F(text, instance)
#define WIRE_FIELDS_ok(F)	F(u32, credits)
#define WIRE_FIELDS_error(F)	F(text, message)
#define WIRE_FIELDS_notify(F)	F(u64, stream) F(text, name) F(u64, point)
#define WIRE_FIELDS_notify_ack(F) F(u8, success) F(u64, stream) F(u64, point)
#define WIRE_FIELDS_message(F)						\
	F(u64, stream) F(u64, id) F(u64, event_time) F(text, key) F(rest, body)
#define WIRE_FIELDS_ack(F)	F(u32, credits) F(pairs, points)
#define WIRE_FIELDS_restart(F)	F(blob, address)
/* Some senders add the last message's id. */
#define WIRE_FIELDS_eos(F)	F(u64, stream) F(rest, more)
#define WIRE_FIELDS_list_uncommitted(F) F(u64, rtag)
#define WIRE_FIELDS_reply_uncommitted(F) F(u64, rtag) F(texts, ids)
#define WIRE_FIELDS_phase1(F)	F(text, id) F(ranges, where)
#define WIRE_FIELDS_reply(F)	F(text, id) F(u8, commit)
#define WIRE_FIELDS_phase2(F)	F(text, id) F(u8, commit)
#define WIRE_FIELDS_workers_left(F) F(u64, rtag) F(texts, workers)

struct wire_list {
	uint32_t	n;
	struct slice	raw;		/* as on the wire, without n */
};

typedef uint8_t		wire_u8;
typedef uint32_t	wire_u32;
typedef uint64_t	wire_u64;
typedef struct slice	wire_text, wire_blob, wire_rest;
typedef struct wire_list wire_pairs, wire_ranges, wire_texts;

#define WIRE_CODE(name, tag)	WIRE_##name = (tag),
enum wire_tag { WIRE_TABLE(WIRE_CODE) };
#undef WIRE_CODE

#define WIRE_FIELD(type, name)	wire_##type name;
#define WIRE_STRUCT(name, tag)						\
	struct wire_##name { WIRE_FIELDS_##name(WIRE_FIELD) };		\
	/* Append tag and fields. */					\
	void	wire_body_##name(struct buf *, const struct wire_##name *); \
	/* The same as a frame. */					\
	void	wire_put_##name(struct buf *, const struct wire_##name *); \
	/* From tag and fields; false: it is malformed or another. */	\
	bool	wire_get_##name(struct wire_##name *, struct slice);
WIRE_TABLE(WIRE_STRUCT)
#undef WIRE_STRUCT
#undef WIRE_FIELD

/* Of a frame without its length; -1: it has none that is known. */
int	wire_tag(struct slice);
/* NULL: there is none such. */
const char *wire_name(int tag);

/* Member i of a list. */
void	wire_pair(const struct wire_list *, uint32_t i, uint64_t v[2]);
void	wire_range(const struct wire_list *, uint32_t i, uint64_t v[3]);
/* Take the first text off; false: there is none. */
bool	wire_next_text(struct wire_list *, struct slice *);
/* Lists are made of these, n is counted by the caller. */
void	wire_add_u64(struct buf *, uint64_t);
void	wire_add_text(struct buf *, struct slice);

#endif
