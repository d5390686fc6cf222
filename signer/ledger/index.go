package ledger

import (
	"hash/maphash"
	"sync/atomic"
	"unsafe"
)

// index finds cells by content. It is in the memory of one process, and may forget: content that it does not find is
// written a second time.
type index struct {
	seed    maphash.Seed
	buckets [][bucketSize]atomic.Uint32
}

// bucketSize is how many cells with one hash are found: one cache line of the processor.
const bucketSize = 16

func newIndex(cells int) *index {
	return &index{maphash.MakeSeed(), make([][bucketSize]atomic.Uint32, max(1, cells*2/bucketSize))}
}

// bytes returns the memory of the index.
func (x *index) bytes() int { return len(x.buckets) * bucketSize * 4 }

// find returns the bucket of a content, and the tag of its cells there.
func (x *index) find(c *content) (bucket *[bucketSize]atomic.Uint32, tag uint32) {
	h := maphash.Bytes(x.seed, unsafe.Slice((*byte)(unsafe.Pointer(c)), len(c)*wordSize))
	return &x.buckets[h%uint64(len(x.buckets))], uint32(h>>32) << (32 - tagBits)
}

// A word of the index has the number of a cell, from 1, in its low bits. The rest is its tag.
const (
	tagBits    = 14
	numberMask = 1<<(32-tagBits) - 1
)

// lookup calls try for each cell that may match, until try returns true.
func lookup(bucket *[bucketSize]atomic.Uint32, tag uint32, try func(cell int) bool) (cell int, ok bool) {
	for i := range bucket {
		v := bucket[i].Load()
		if v == 0 {
			break
		}
		if v&^numberMask == tag && try(int(v&numberMask)-1) {
			return int(v&numberMask) - 1, true
		}
	}
	return 0, false
}

// note adds a cell, replacing an empty word, a dead cell, or else any other.
func note(bucket *[bucketSize]atomic.Uint32, tag uint32, cell int, dead func(cell int) bool) {
	value := tag | uint32(cell+1)
	for i := range bucket {
		if bucket[i].CompareAndSwap(0, value) {
			return
		}
	}
	for i := range bucket {
		if v := bucket[i].Load(); dead(int(v&numberMask)-1) && bucket[i].CompareAndSwap(v, value) {
			return
		}
	}
	bucket[cell%bucketSize].Store(value)
}
