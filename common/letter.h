/*
 * What a dead letter keeps of a record, so that it can be put into the
 * pipeline again: where it failed, its key, its origin and its bytes.  Packed
 * as MessagePack; in a letter, which is JSON, as base64.
 */
#ifndef COMMON_LETTER_H
#define COMMON_LETTER_H

#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

#define LETTER_VALUE	(64 * 1024)	/* a larger record is not kept */

enum letter_kind {
	LETTER_SOURCE,		/* value: payload for the decoder */
	LETTER_STAGE,		/* value: message before the stage, packed */
	LETTER_SINK		/* value: message before the encoder, packed */
};

struct letter {
	enum letter_kind kind;
	uint32_t	 index;		/* of source, stage or sink ... */
	struct slice	 name;		/* ... and its name */
	struct slice	 key;
	uint64_t	 time_ns;	/* origin */
	uint64_t	 id;
	struct slice	 value;
};

void	letter_pack(struct buf *, const struct letter *);
/* The slices borrow the bytes. */
int	letter_unpack(struct letter *, struct slice, struct err *);
void	letter_text(struct buf *, struct slice);	/* append base64 */
int	letter_bytes(struct buf *, struct slice text, struct err *);

#endif
