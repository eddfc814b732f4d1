/* Encoders, decoders and the dispatcher, generated from msg.def. */
#include "common/mp.h"
#include "common/msg.h"

/* 1 MSG_FIELDS_name(MSG_ONE): the code and the fields of a message. */
#define MSG_ONE(type, field)		+1

static void
put_u32(struct buf *b, uint32_t v)
{
	mp_put_uint(b, v);
}

static void
put_u64(struct buf *b, uint64_t v)
{
	mp_put_uint(b, v);
}

static void
put_str(struct buf *b, struct slice s)
{
	mp_put_strn(b, (const char *)s.data, s.len);
}

static void
put_bin(struct buf *b, struct slice s)
{
	mp_put_bin(b, s.data, s.len);
}

static uint32_t
get_u32(struct mp *c)
{
	return ((uint32_t)mp_get_uint(c, UINT32_MAX));
}

static uint64_t
get_u64(struct mp *c)
{
	return (mp_get_uint(c, UINT64_MAX));
}

static struct slice
get_str(struct mp *c)
{
	return (mp_get_str(c));
}

static struct slice
get_bin(struct mp *c)
{
	return (mp_get_bin(c));
}

/* Leaves room for the length and returns where it goes. */
static size_t
frame_begin(struct buf *b)
{
	size_t at = b->len;

	(void)buf_reserve(b, MSG_HEADER);
	b->len += MSG_HEADER;
	return (at);
}

static void
frame_end(struct buf *b, size_t at)
{
	size_t len = b->len - at - MSG_HEADER;

	b->data[at] = (uint8_t)(len >> 24);
	b->data[at + 1] = (uint8_t)(len >> 16);
	b->data[at + 2] = (uint8_t)(len >> 8);
	b->data[at + 3] = (uint8_t)len;
}

#define MSG_PUT_FIELD(type, field)	put_##type(b, m->field);
#define MSG_PUT(name, code, from)					\
void									\
msg_put_##name(struct buf *b, const struct msg_##name *m)		\
{									\
	size_t at = frame_begin(b);					\
									\
	mp_put_array(b, 1 MSG_FIELDS_##name(MSG_ONE));			\
	mp_put_uint(b, code);						\
	MSG_FIELDS_##name(MSG_PUT_FIELD)				\
	frame_end(b, at);						\
}
MSG_TABLE(MSG_PUT)

const char *
msg_name(uint32_t code)
{
#define MSG_NAME(name, code, from)	case code: return (#name);
	switch (code) {
	MSG_TABLE(MSG_NAME)
	}
	return (NULL);
}

/* Who may send a message; 0 = no such message. */
static unsigned int
msg_senders(uint32_t code)
{
#define MSG_FROM(name, code, from)	case code: return (from);
	switch (code) {
	MSG_TABLE(MSG_FROM)
	}
	return (0);
}

static int
malformed(struct err *err, const char *name)
{
	return (err_set(err, ERR_CORRUPT, "malformed message %s", name));
}

static int
unhandled(struct err *err, const char *name)
{
	return (err_set(err, ERR_CORRUPT, "message %s is not expected here",
	    name));
}

/* One decoder per message: all fields, nothing after them, then its handler. */
#define MSG_GET_FIELD(type, field)	m.field = get_##type(c);
#define MSG_GET(name, code, from)					\
static int								\
dispatch_##name(const struct msg_handlers *h, void *arg, uint32_t n,	\
    struct mp *c, struct err *err)					\
{									\
	struct msg_##name m;						\
									\
	MSG_FIELDS_##name(MSG_GET_FIELD)				\
	if (n != (1 MSG_FIELDS_##name(MSG_ONE)) || !mp_end(c))		\
		return (malformed(err, #name));				\
	if (h->name == NULL)						\
		return (unhandled(err, #name));				\
	return (h->name(arg, &m, err));					\
}
MSG_TABLE(MSG_GET)

int
msg_dispatch(const struct msg_handlers *h, void *arg, enum msg_from from,
    struct slice frame, struct err *err)
{
	struct mp c;
	uint32_t n, code;

	mp_init(&c, frame);
	n = mp_get_array(&c);
	code = get_u32(&c);
	if (!mp_ok(&c))
		return (malformed(err, "head"));
	if (msg_senders(code) == 0)
		return (err_set(err, ERR_CORRUPT, "unknown message %u", code));
	if ((msg_senders(code) & from) == 0)
		return (err_set(err, ERR_CORRUPT,
		    "message %s is not permitted to its sender",
		    msg_name(code)));
#define MSG_CASE(name, code, from)					\
	case code:							\
		return (dispatch_##name(h, arg, n, &c, err));
	switch (code) {
	MSG_TABLE(MSG_CASE)
	}
	return (-1);
}

long
msg_frame(struct slice s, size_t max)
{
	size_t len;

	if (s.len < MSG_HEADER)
		return (0);
	len = (size_t)s.data[0] << 24 | (size_t)s.data[1] << 16 |
	    (size_t)s.data[2] << 8 | s.data[3];
	if (max < MSG_HEADER || len > max - MSG_HEADER)
		return (-1);
	return (s.len < len + MSG_HEADER ? 0 : (long)(len + MSG_HEADER));
}
