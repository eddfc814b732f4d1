// Frames of the connector protocol, for source.go and sink.go.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const nothing = ^uint64(0)
const (
	HELLO = iota
	OK
	ERROR
	NOTIFY
	NOTIFY_ACK
	MESSAGE
	ACK
	RESTART
	EOS
)

// The fields of a body; bad once more was taken than there is.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.bad, f.b = true, nil
		return make([]byte, 8) // enough for every number
	}
	taken := f.b[:n]
	f.b = f.b[n:]
	return taken
}

func (f *fields) u8() byte    { return f.take(1)[0] }
func (f *fields) u16() int    { return int(binary.BigEndian.Uint16(f.take(2))) }
func (f *fields) u32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) u64() uint64 { return binary.BigEndian.Uint64(f.take(8)) }
func (f *fields) text() string {
	return string(f.take(f.u16()))
}

// A string gets its length in front, bytes do not.
func frame(tag byte, parts ...interface{}) []byte {
	var b bytes.Buffer
	b.Write([]byte{0, 0, 0, 0, tag})
	for _, part := range parts {
		if text, ok := part.(string); ok {
			binary.Write(&b, binary.BigEndian, uint16(len(text)))
			b.WriteString(text)
		} else {
			binary.Write(&b, binary.BigEndian, part)
		}
	}
	binary.BigEndian.PutUint32(b.Bytes(), uint32(b.Len()-4))
	return b.Bytes()
}

func read(in io.Reader) (byte, *fields, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > 1<<20+64 {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(in, body)
	return body[0], &fields{b: body[1:]}, err
}
