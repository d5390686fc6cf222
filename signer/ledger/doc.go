// Package ledger records until when signed tokens are valid, in bounded memory that survives a crash.
//
// A signer calls Open, calls Ledger.Note before it returns a signature, and Ledger.Tend from time to time. Read gives
// another process a Report of the file, at any time. The file holds no token, and only those claims that Token has.
//
// The file is mapped into memory and written with atomic operations, so it is complete at every moment: killing a
// process loses nothing that was recorded, and two processes may write at once. It is not synced while it is written.
// After an unclean stop of the machine, the next Open begins a new ledger, whose Report.Since is later.
//
// # What it costs
//
// A ledger has 131,072 cells of 64 bytes. A text of up to 48 bytes (an account, a set of audiences, the name of an
// object) takes one cell for all tokens that share it, and so does each Entry. A cell is free again when all of its
// tokens have expired. When less than an eighth of the cells is free, Note uses it for coarse entries only; see Entry.
package ledger
