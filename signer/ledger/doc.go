// Package ledger notes until when the tokens that a signer signed live, in bounded memory that survives a crash.
package ledger
