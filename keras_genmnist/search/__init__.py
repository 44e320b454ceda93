"""What `genmnist tune` is made of: space, storage, study, table and figures."""
