-- What makes a transaction one that can't be committed.
--
-- Why: a preview of a replay asks the very function that charges, and rolls back. Whoever may ask for a preview must not
-- be able to charge by committing instead. A row here refers to one that can't be; that is looked at when the transaction
-- commits, and ends it.

create table token_billing_trial_ends (
    id int primary key check (false)
);
create table token_billing_trials (
    id int not null references token_billing_trial_ends deferrable initially deferred
);
