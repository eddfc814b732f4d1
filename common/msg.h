/*
 * Messages between processes: structs, encoders and a checking dispatcher,
 * all generated from msg.def.  str and bin fields of a decoded message borrow
 * the frame.
 */
#ifndef COMMON_MSG_H
#define COMMON_MSG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/msg.def"

#define MSG_PROTOCOL	1
#define MSG_HEADER	4		/* length prefix, bytes */
#define MSG_MAX_CONTROL	(160 * 1024)	/* largest supervisor message */

/* Who may send a message: one bit per kind of peer. */
enum msg_from { FROM_SUP = 1, FROM_WORKER = 2, FROM_PEER = 4, FROM_CTL = 8 };

#define LAG_SIZE	12		/* of one partition, in `lag` */
#define LAGS_MOST	65536		/* numbers of partitions */

/* prepare.flags */
#define PREPARE_IMPORT		1	/* the application is needed */
#define PREPARE_SPARE		2	/* adopt comes later, perhaps never */

/* adopt.flags */
#define START_ACCEPT_LOSS	1	/* operator said --accept-loss */
#define START_DESCRIBE		2	/* only import and send the topology */
#define START_DRAINING		4	/* stopping: no sources */
#define START_RESPREAD		8	/* only spread state over new workers */
#define START_AGAIN		16	/* not its first life in this epoch */

/* finish.why */
#define FINISH_STOP		0	/* everything into the file, clean */
#define FINISH_ABORT		1	/* another worker has failed for good:
					   settle with receivers, exit; the
					   mapped files are kept */

#define MSG_ENUM(name, code, from)	MSG_##name = code,
enum msg_code { MSG_TABLE(MSG_ENUM) };
#undef MSG_ENUM

typedef uint32_t msg_u32;
typedef uint64_t msg_u64;
typedef struct slice msg_str;
typedef struct slice msg_bin;

#define MSG_FIELD(type, field)		msg_##type field;
#define MSG_STRUCT(name, code, from)	\
	struct msg_##name { MSG_FIELDS_##name(MSG_FIELD) };
MSG_TABLE(MSG_STRUCT)
#undef MSG_STRUCT
#undef MSG_FIELD

/* Append the whole frame, length prefix included. */
#define MSG_PUT(name, code, from)	\
	void msg_put_##name(struct buf *, const struct msg_##name *);
MSG_TABLE(MSG_PUT)
#undef MSG_PUT

/* One member per message; a program fills those it accepts.  A handler
 * returns 0, or -1 with *err set, which ends the dispatch. */
#define MSG_HANDLER(name, code, from)	\
	int (*name)(void *, const struct msg_##name *, struct err *);
struct msg_handlers { MSG_TABLE(MSG_HANDLER) };
#undef MSG_HANDLER

const char *msg_name(uint32_t code);		/* NULL if unknown */
/*
 * Decode one frame (without its length prefix) from a peer of the given kind
 * and call its handler.  ERR_CORRUPT: malformed, unknown, not permitted to
 * that sender, or no handler.  Unknown trailing fields are an error too: the
 * protocol number in hello governs upgrades.
 */
int	msg_dispatch(const struct msg_handlers *, void *, enum msg_from,
	    struct slice frame, struct err *);
/* Length of the frame at the head of s, prefix included; 0 = incomplete;
 * -1 = claims more than max. */
long	msg_frame(struct slice s, size_t max);

static inline struct slice
msg_cstr(const char *s)
{
	return (slice_of(s, __builtin_strlen(s)));
}

#endif
